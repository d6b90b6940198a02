-- The outbox's table, as docs/outbox.md has it.
CREATE TABLE keymill_outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization  text NOT NULL,
    asset_id      text NOT NULL,
    event         text NOT NULL DEFAULT 'ingest',
    body          text NOT NULL DEFAULT '{}',
    created       timestamptz NOT NULL DEFAULT clock_timestamp(),
    relayed       timestamptz,
    partition     integer,
    log_offset    bigint,
    error_code    text,
    error_field   text,
    error_message text
);
CREATE INDEX keymill_outbox_waiting ON keymill_outbox (id) WHERE relayed IS NULL AND error_code IS NULL;
