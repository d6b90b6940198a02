"""
The main job, shown on a real clip with a real packager and a real browser.

    media → package → prove → page, player, browser          run tells the story, stack starts `keymill up`

Needs the `demo` extra. Everything here stands outside keymill's walls, where a packager and a player stand: it holds
the clear keys that they are given, in memory and pipes only.
"""
