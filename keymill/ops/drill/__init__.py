"""
`make drill`: lose what is derived while players ask for licenses, and get it back by the commands of the runbook.

A broker, the programs and the load are real and on this machine; nothing is asked of anything beyond loopback.
"""
