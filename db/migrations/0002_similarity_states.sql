-- States that were added to an index of the similarity server, and those that were deleted from it.

CREATE SEQUENCE similarity_states_sequence;
COMMENT ON SEQUENCE similarity_states_sequence IS 'Numbers every change of similarity_states.';

CREATE TABLE similarity_states (
    index_name text NOT NULL,
    index_version bigint NOT NULL,
    state_id bigint NOT NULL,
    sequence bigint NOT NULL DEFAULT nextval('similarity_states_sequence'),
    deleted boolean NOT NULL DEFAULT false,
    con_id bigint,
    symbol text,
    event_ns bigint,
    outcome_ns bigint,
    bar_ns bigint,
    forward_return_bps real,
    embedding bytea,
    written_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (index_name, index_version, state_id),
    CONSTRAINT similarity_states_whole CHECK (
        deleted OR num_nulls(con_id, symbol, event_ns, outcome_ns, bar_ns, forward_return_bps, embedding) = 0
    )
);
CREATE UNIQUE INDEX similarity_states_by_sequence
    ON similarity_states (index_name, index_version, sequence);
COMMENT ON TABLE similarity_states IS
    'Source of truth of what AddStates and DeleteStates changed: one row per state. A server starts from its snapshot and reads the rows whose sequence is higher. One process writes one index, so rows become visible in the order of their sequence.';
COMMENT ON COLUMN similarity_states.index_name IS 'Name of the index.';
COMMENT ON COLUMN similarity_states.index_version IS 'Its version: another one has states of its own.';
COMMENT ON COLUMN similarity_states.state_id IS 'Unique in the index; made by the writer of the state.';
COMMENT ON COLUMN similarity_states.sequence IS 'Number of the last change of the row.';
COMMENT ON COLUMN similarity_states.deleted IS
    'True: no search finds it. A row without the other values deletes a state that ships with the index.';
COMMENT ON COLUMN similarity_states.con_id IS 'What was traded, contract id.';
COMMENT ON COLUMN similarity_states.symbol IS 'The same, for people.';
COMMENT ON COLUMN similarity_states.event_ns IS 'Close of the last bar of the state, ns since the epoch, UTC.';
COMMENT ON COLUMN similarity_states.outcome_ns IS 'When its outcome was known, ns since the epoch, UTC.';
COMMENT ON COLUMN similarity_states.bar_ns IS 'Length of one bar, ns.';
COMMENT ON COLUMN similarity_states.forward_return_bps IS
    'Return of the close over the horizon of the index, basis points.';
COMMENT ON COLUMN similarity_states.embedding IS 'Little-endian float32, length 1.';
COMMENT ON COLUMN similarity_states.written_time IS 'When the row was first written, UTC.';
