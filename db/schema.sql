-- The whole schema as it is now. migrations/ leads here step by step; tests/migration proves that
-- both are the same. Change both together.
--
-- Times: `*_ns` is the exact time in nanoseconds since 1970-01-01 UTC, the `*_time` beside it the
-- same in microseconds for people. Prices are in the instrument's currency.
-- Documents are json, not jsonb: the text is kept as it was written, so that a replay sees the same
-- numbers in the same order. In them "NaN", "Infinity" and "-Infinity" stand for those floats.

CREATE FUNCTION utc_from_ns(ns bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT timestamptz '1970-01-01 00:00:00+00' + (ns / 1000) * interval '1 microsecond' $$;
COMMENT ON FUNCTION utc_from_ns(bigint) IS
    'Nanoseconds since the epoch as timestamptz, cut to microseconds.';

-- --- the journal's own tables ---------------------------------------------------------------------

CREATE TABLE schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_time timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE schema_migrations IS 'Migrations that were applied to this database.';
COMMENT ON COLUMN schema_migrations.version IS 'Number at the start of the file name.';
COMMENT ON COLUMN schema_migrations.name IS 'File name.';
COMMENT ON COLUMN schema_migrations.sha256 IS 'Hex digest of the file when it was applied.';
COMMENT ON COLUMN schema_migrations.applied_time IS 'When it was applied, UTC.';

CREATE TABLE batches (
    batch_id uuid PRIMARY KEY,
    run_id text NOT NULL,
    table_name text NOT NULL,
    row_count integer NOT NULL,
    written_time timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE batches IS
    'Batches of rows that are in the database, written in the same transaction as their rows: a batch that is sent again is skipped. A writer deletes its own when it closes with nothing left in its spool.';
COMMENT ON COLUMN batches.batch_id IS 'First 8 bytes: the writer; last 8 bytes: its count.';
COMMENT ON COLUMN batches.run_id IS 'Run that the rows belong to.';
COMMENT ON COLUMN batches.table_name IS 'Table that the rows went into.';
COMMENT ON COLUMN batches.row_count IS 'Rows in the batch.';
COMMENT ON COLUMN batches.written_time IS 'When it was written, UTC.';

-- --- runs -----------------------------------------------------------------------------------------

CREATE TABLE runs (
    run_id text PRIMARY KEY,
    started_ns bigint NOT NULL,
    started_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(started_ns)) STORED,
    ended_time timestamptz,
    strategy_name text NOT NULL,
    trading_mode text NOT NULL,
    data_source text NOT NULL,
    seed bigint,
    code_version text NOT NULL,
    config json NOT NULL,
    models json NOT NULL
);
CREATE INDEX runs_started ON runs (started_ns);
COMMENT ON TABLE runs IS 'One row per run of a strategy: what ran, on what, with which configuration.';
COMMENT ON COLUMN runs.run_id IS 'UUIDv7.';
COMMENT ON COLUMN runs.started_ns IS 'Wall clock at the start, ns since the epoch, UTC.';
COMMENT ON COLUMN runs.started_time IS 'The same as timestamp.';
COMMENT ON COLUMN runs.ended_time IS 'Wall clock at a clean end; null while it runs or when it was killed.';
COMMENT ON COLUMN runs.strategy_name IS 'Name in the configuration.';
COMMENT ON COLUMN runs.trading_mode IS 'paper or live.';
COMMENT ON COLUMN runs.data_source IS 'generated, sample, recorded: <file name>, or gateway.';
COMMENT ON COLUMN runs.seed IS 'Seed of a generated market; null for real data.';
COMMENT ON COLUMN runs.code_version IS 'Version or git commit of the code.';
COMMENT ON COLUMN runs.config IS 'Whole configuration of the strategy.';
COMMENT ON COLUMN runs.models IS 'Models it was to call: name, version, artifact sha256, skill.';

CREATE TABLE instruments (
    run_id text NOT NULL REFERENCES runs,
    con_id bigint NOT NULL,
    symbol text NOT NULL,
    currency text NOT NULL,
    min_tick double precision NOT NULL,
    security_type text NOT NULL,
    PRIMARY KEY (run_id, con_id)
);
COMMENT ON TABLE instruments IS 'What a con_id means in a run.';
COMMENT ON COLUMN instruments.run_id IS 'Run.';
COMMENT ON COLUMN instruments.con_id IS 'Contract id of Interactive Brokers, or a synthetic one.';
COMMENT ON COLUMN instruments.symbol IS 'Ticker.';
COMMENT ON COLUMN instruments.currency IS 'ISO 4217; prices are in it.';
COMMENT ON COLUMN instruments.min_tick IS 'Smallest price step, in the currency.';
COMMENT ON COLUMN instruments.security_type IS 'STK or CASH.';

-- --- telemetry: partitioned by day (UTC) of the event time ----------------------------------------

CREATE TABLE quotes (
    run_id text NOT NULL,
    con_id bigint NOT NULL,
    event_time timestamptz NOT NULL,
    event_ns bigint NOT NULL,
    bid_price double precision NOT NULL,
    bid_size double precision NOT NULL,
    ask_price double precision NOT NULL,
    ask_size double precision NOT NULL
) PARTITION BY RANGE (event_time);
CREATE TABLE quotes_default PARTITION OF quotes DEFAULT;
CREATE INDEX quotes_run ON quotes (run_id, con_id, event_time);
COMMENT ON TABLE quotes IS 'Best bid and ask; a missing side has price 0 and size 0. Partitioned by day of event_time.';
COMMENT ON COLUMN quotes.run_id IS 'Run.';
COMMENT ON COLUMN quotes.con_id IS 'Instrument.';
COMMENT ON COLUMN quotes.event_time IS 'Exchange time, UTC, microseconds.';
COMMENT ON COLUMN quotes.event_ns IS 'Exchange time, ns since the epoch, UTC.';
COMMENT ON COLUMN quotes.bid_price IS 'Best bid, in the currency.';
COMMENT ON COLUMN quotes.bid_size IS 'Size at the best bid, shares or units.';
COMMENT ON COLUMN quotes.ask_price IS 'Best ask, in the currency.';
COMMENT ON COLUMN quotes.ask_size IS 'Size at the best ask, shares or units.';

CREATE TABLE trades (
    run_id text NOT NULL,
    con_id bigint NOT NULL,
    event_time timestamptz NOT NULL,
    event_ns bigint NOT NULL,
    price double precision NOT NULL,
    size double precision NOT NULL
) PARTITION BY RANGE (event_time);
CREATE TABLE trades_default PARTITION OF trades DEFAULT;
CREATE INDEX trades_run ON trades (run_id, con_id, event_time);
COMMENT ON TABLE trades IS 'Prints on the tape (of anyone; our own executions are in fills). Partitioned by day of event_time.';
COMMENT ON COLUMN trades.run_id IS 'Run.';
COMMENT ON COLUMN trades.con_id IS 'Instrument.';
COMMENT ON COLUMN trades.event_time IS 'Exchange time, UTC, microseconds.';
COMMENT ON COLUMN trades.event_ns IS 'Exchange time, ns since the epoch, UTC.';
COMMENT ON COLUMN trades.price IS 'Price, in the currency.';
COMMENT ON COLUMN trades.size IS 'Shares or units.';

CREATE TABLE bars (
    run_id text NOT NULL,
    con_id bigint NOT NULL,
    start_time timestamptz NOT NULL,
    start_ns bigint NOT NULL,
    end_ns bigint NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision NOT NULL
) PARTITION BY RANGE (start_time);
CREATE TABLE bars_default PARTITION OF bars DEFAULT;
CREATE INDEX bars_run ON bars (run_id, con_id, start_time);
COMMENT ON TABLE bars IS 'Closed bars. Partitioned by day of start_time.';
COMMENT ON COLUMN bars.run_id IS 'Run.';
COMMENT ON COLUMN bars.con_id IS 'Instrument.';
COMMENT ON COLUMN bars.start_time IS 'Begin of the interval (inclusive), UTC, microseconds.';
COMMENT ON COLUMN bars.start_ns IS 'Begin of the interval (inclusive), ns since the epoch, UTC.';
COMMENT ON COLUMN bars.end_ns IS 'End of the interval (exclusive), ns since the epoch, UTC; known from here on.';
COMMENT ON COLUMN bars.open IS 'First price, in the currency.';
COMMENT ON COLUMN bars.high IS 'Highest price, in the currency.';
COMMENT ON COLUMN bars.low IS 'Lowest price, in the currency.';
COMMENT ON COLUMN bars.close IS 'Last price, in the currency.';
COMMENT ON COLUMN bars.volume IS 'Shares or units.';

CREATE TABLE book_snapshots (
    run_id text NOT NULL,
    con_id bigint NOT NULL,
    event_time timestamptz NOT NULL,
    event_ns bigint NOT NULL,
    bid_prices double precision[] NOT NULL,
    bid_sizes double precision[] NOT NULL,
    ask_prices double precision[] NOT NULL,
    ask_sizes double precision[] NOT NULL
) PARTITION BY RANGE (event_time);
CREATE TABLE book_snapshots_default PARTITION OF book_snapshots DEFAULT;
CREATE INDEX book_snapshots_run ON book_snapshots (run_id, con_id, event_time);
COMMENT ON TABLE book_snapshots IS 'Order books, the best level first. Partitioned by day of event_time.';
COMMENT ON COLUMN book_snapshots.run_id IS 'Run.';
COMMENT ON COLUMN book_snapshots.con_id IS 'Instrument.';
COMMENT ON COLUMN book_snapshots.event_time IS 'Exchange time, UTC, microseconds.';
COMMENT ON COLUMN book_snapshots.event_ns IS 'Exchange time, ns since the epoch, UTC.';
COMMENT ON COLUMN book_snapshots.bid_prices IS 'Bid prices, highest first, in the currency.';
COMMENT ON COLUMN book_snapshots.bid_sizes IS 'Sizes at bid_prices, shares or units.';
COMMENT ON COLUMN book_snapshots.ask_prices IS 'Ask prices, lowest first, in the currency.';
COMMENT ON COLUMN book_snapshots.ask_sizes IS 'Sizes at ask_prices, shares or units.';

CREATE FUNCTION create_day_partition(parent text, day date) RETURNS boolean
    LANGUAGE plpgsql
    SET lock_timeout = '2s'
    AS $$
DECLARE
    child text := parent || '_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(quote_ident(child)) IS NOT NULL THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('tradeserve.create_day_partition'), hashtext(child));
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                   child, parent, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
    RETURN true;
EXCEPTION
    WHEN check_violation OR lock_not_available THEN
        RETURN false;
END $$;
COMMENT ON FUNCTION create_day_partition(text, date) IS
    'Makes the partition of a UTC day. False when that must wait (table locked) or cannot be (the day already has rows in the default partition): rows go to the default partition.';

-- --- decisions and their evidence -----------------------------------------------------------------

CREATE TABLE decisions (
    decision_id text PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    con_id bigint NOT NULL,
    event_ns bigint NOT NULL,
    event_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(event_ns)) STORED,
    decided_ns bigint NOT NULL,
    decided_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(decided_ns)) STORED,
    side text NOT NULL,
    purpose text,
    strength double precision NOT NULL,
    reason text NOT NULL,
    down_probability double precision,
    flat_probability double precision,
    up_probability double precision,
    weights json NOT NULL,
    missing json NOT NULL,
    risk_checks json NOT NULL,
    state json NOT NULL,
    ledger json NOT NULL,
    budget_ns bigint NOT NULL,
    "window" bytea NOT NULL
);
CREATE INDEX decisions_run ON decisions (run_id, event_ns);
COMMENT ON TABLE decisions IS
    'Decisions with everything needed to make them again bit for bit from the recorded answers.';
COMMENT ON COLUMN decisions.decision_id IS 'UUIDv7.';
COMMENT ON COLUMN decisions.run_id IS 'Run.';
COMMENT ON COLUMN decisions.con_id IS 'Instrument.';
COMMENT ON COLUMN decisions.event_ns IS 'End of the bar that caused it, ns since the epoch, UTC.';
COMMENT ON COLUMN decisions.event_time IS 'The same as timestamp.';
COMMENT ON COLUMN decisions.decided_ns IS 'Wall clock when it was made, ns since the epoch, UTC.';
COMMENT ON COLUMN decisions.decided_time IS 'The same as timestamp.';
COMMENT ON COLUMN decisions.side IS 'BUY, SELL or HOLD.';
COMMENT ON COLUMN decisions.purpose IS 'entry, exit or flatten; null for HOLD.';
COMMENT ON COLUMN decisions.strength IS '0 to 1; scales the size of an entry.';
COMMENT ON COLUMN decisions.reason IS 'One sentence for people.';
COMMENT ON COLUMN decisions.down_probability IS 'Ensemble''s P(down); null below the quorum.';
COMMENT ON COLUMN decisions.flat_probability IS 'Ensemble''s P(flat); null below the quorum.';
COMMENT ON COLUMN decisions.up_probability IS 'Ensemble''s P(up); null below the quorum.';
COMMENT ON COLUMN decisions.weights IS 'Voter -> effective weight; sums to 1, {} below the quorum.';
COMMENT ON COLUMN decisions.missing IS 'Voter -> why it did not count.';
COMMENT ON COLUMN decisions.risk_checks IS 'List of name, value, limit, passed.';
COMMENT ON COLUMN decisions.state IS 'Input of policy and risk: position, equity, volatility, quote, counters.';
COMMENT ON COLUMN decisions.ledger IS 'Stage -> nanoseconds.';
COMMENT ON COLUMN decisions.budget_ns IS 'Budget of the decision, nanoseconds.';
COMMENT ON COLUMN decisions."window" IS 'Input of the models: (window_bars, 5) float32 little-endian, C order: open, high, low, close, volume; oldest first.';

CREATE TABLE model_calls (
    model_call_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    decision_id text NOT NULL,
    service text NOT NULL,
    request_id text NOT NULL,
    outcome text NOT NULL,
    detail text NOT NULL,
    used boolean NOT NULL,
    sent_after_ns bigint NOT NULL,
    deadline_after_ns bigint NOT NULL,
    received_after_ns bigint NOT NULL,
    queue_ns bigint NOT NULL,
    compute_ns bigint NOT NULL,
    network_ns bigint NOT NULL,
    model_name text NOT NULL,
    model_version bigint NOT NULL,
    artifact_sha256 text NOT NULL,
    output json NOT NULL,
    attempts json
);
CREATE INDEX model_calls_decision ON model_calls (decision_id);
CREATE INDEX model_calls_run ON model_calls (run_id, service);
COMMENT ON TABLE model_calls IS
    'Calls to the services for decisions; also the ones that were not sent or came late. A late answer has a row of its own.';
COMMENT ON COLUMN model_calls.model_call_id IS 'Order of writing.';
COMMENT ON COLUMN model_calls.run_id IS 'Run.';
COMMENT ON COLUMN model_calls.decision_id IS 'Decision it was for.';
COMMENT ON COLUMN model_calls.service IS 'Name of the voter or of the similarity service.';
COMMENT ON COLUMN model_calls.request_id IS 'Id that was on the wire.';
COMMENT ON COLUMN model_calls.outcome IS 'in time, or why there was no answer.';
COMMENT ON COLUMN model_calls.detail IS 'The server''s or the client''s words.';
COMMENT ON COLUMN model_calls.used IS 'Whether the answer took part in the decision.';
COMMENT ON COLUMN model_calls.sent_after_ns IS 'Nanoseconds since the bar came off the socket; -1: not sent.';
COMMENT ON COLUMN model_calls.deadline_after_ns IS 'Deadline, nanoseconds since the bar came off the socket.';
COMMENT ON COLUMN model_calls.received_after_ns IS 'Nanoseconds since the bar came off the socket; -1: nothing came.';
COMMENT ON COLUMN model_calls.queue_ns IS 'Waiting in the server, nanoseconds, as the server says.';
COMMENT ON COLUMN model_calls.compute_ns IS 'Computing in the server, nanoseconds, as the server says.';
COMMENT ON COLUMN model_calls.network_ns IS 'The rest of the round trip, nanoseconds.';
COMMENT ON COLUMN model_calls.model_name IS 'Model or index that answered.';
COMMENT ON COLUMN model_calls.model_version IS 'Its version.';
COMMENT ON COLUMN model_calls.artifact_sha256 IS 'Hex digest of its artifact.';
COMMENT ON COLUMN model_calls.output IS 'The raw answer: probabilities, embedding_f32 (base64), …, or {}.';
COMMENT ON COLUMN model_calls.attempts IS
    'Where it was sent, in order: target, cause (first, retry, hedge), outcome, sent_after_ns, …; null: one server only.';

CREATE TABLE neighbors (
    decision_id text NOT NULL,
    rank integer NOT NULL,
    run_id text NOT NULL REFERENCES runs,
    state_id bigint NOT NULL,
    con_id bigint NOT NULL,
    symbol text NOT NULL,
    event_ns bigint NOT NULL,
    event_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(event_ns)) STORED,
    bar_size_s integer NOT NULL,
    similarity double precision NOT NULL,
    forward_return_bps double precision NOT NULL,
    PRIMARY KEY (decision_id, rank)
);
CREATE INDEX neighbors_run ON neighbors (run_id);
COMMENT ON TABLE neighbors IS 'Past market states that looked like the present one, with what came after them.';
COMMENT ON COLUMN neighbors.decision_id IS 'Decision they are evidence of.';
COMMENT ON COLUMN neighbors.rank IS 'Place by similarity, the nearest first.';
COMMENT ON COLUMN neighbors.run_id IS 'Run.';
COMMENT ON COLUMN neighbors.state_id IS 'Id of the state in the index.';
COMMENT ON COLUMN neighbors.con_id IS 'Instrument of the state.';
COMMENT ON COLUMN neighbors.symbol IS 'Its ticker.';
COMMENT ON COLUMN neighbors.event_ns IS 'When the state was known, ns since the epoch, UTC.';
COMMENT ON COLUMN neighbors.event_time IS 'The same as timestamp.';
COMMENT ON COLUMN neighbors.bar_size_s IS 'Length of its bars, seconds.';
COMMENT ON COLUMN neighbors.similarity IS 'Cosine similarity of the embeddings, -1 to 1.';
COMMENT ON COLUMN neighbors.forward_return_bps IS 'Return over the index''s horizon afterwards, basis points.';

-- --- orders ---------------------------------------------------------------------------------------

CREATE TABLE order_intents (
    intent_id text PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    decision_id text NOT NULL,
    con_id bigint NOT NULL,
    symbol text NOT NULL,
    side text NOT NULL,
    purpose text NOT NULL,
    quantity numeric NOT NULL,
    limit_price numeric,
    stop_price numeric,
    take_profit_price numeric,
    created_ns bigint NOT NULL,
    created_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(created_ns)) STORED
);
CREATE INDEX order_intents_run ON order_intents (run_id, created_ns);
CREATE INDEX order_intents_decision ON order_intents (decision_id);
COMMENT ON TABLE order_intents IS 'Orders that were about to be sent; on disk before the order went out.';
COMMENT ON COLUMN order_intents.intent_id IS 'UUIDv7 as hex; the order references contain it.';
COMMENT ON COLUMN order_intents.run_id IS 'Run.';
COMMENT ON COLUMN order_intents.decision_id IS 'Decision that caused it; empty for a flatten or a kill.';
COMMENT ON COLUMN order_intents.con_id IS 'Instrument.';
COMMENT ON COLUMN order_intents.symbol IS 'Ticker.';
COMMENT ON COLUMN order_intents.side IS 'BUY or SELL.';
COMMENT ON COLUMN order_intents.purpose IS 'entry, exit or flatten.';
COMMENT ON COLUMN order_intents.quantity IS 'Shares or units, > 0.';
COMMENT ON COLUMN order_intents.limit_price IS 'Limit of the parent, in the currency; null: market order.';
COMMENT ON COLUMN order_intents.stop_price IS 'Stop of the protective child, in the currency.';
COMMENT ON COLUMN order_intents.take_profit_price IS 'Limit of the profit-taking child, in the currency; null: none.';
COMMENT ON COLUMN order_intents.created_ns IS 'Wall clock, ns since the epoch, UTC.';
COMMENT ON COLUMN order_intents.created_time IS 'The same as timestamp.';

CREATE TABLE order_events (
    order_event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    order_ref text NOT NULL,
    intent_id text NOT NULL,
    perm_id bigint NOT NULL,
    con_id bigint NOT NULL,
    status text NOT NULL,
    filled numeric NOT NULL,
    remaining numeric NOT NULL,
    average_price double precision NOT NULL,
    event_ns bigint NOT NULL,
    event_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(event_ns)) STORED,
    error_code integer NOT NULL,
    message text NOT NULL
);
CREATE INDEX order_events_intent ON order_events (intent_id);
CREATE INDEX order_events_run ON order_events (run_id, event_ns);
COMMENT ON TABLE order_events IS 'Changes of orders at the broker; status "sent" is ours: handed to the socket.';
COMMENT ON COLUMN order_events.order_event_id IS 'Order of writing.';
COMMENT ON COLUMN order_events.run_id IS 'Run.';
COMMENT ON COLUMN order_events.order_ref IS 'Our reference at the broker: ts/<intent_id>/<E, S or T>.';
COMMENT ON COLUMN order_events.intent_id IS 'Intent inside the reference.';
COMMENT ON COLUMN order_events.perm_id IS 'The broker''s permanent id; 0 while unknown.';
COMMENT ON COLUMN order_events.con_id IS 'Instrument.';
COMMENT ON COLUMN order_events.status IS 'The broker''s status, or sent.';
COMMENT ON COLUMN order_events.filled IS 'Shares or units filled so far.';
COMMENT ON COLUMN order_events.remaining IS 'Shares or units still open.';
COMMENT ON COLUMN order_events.average_price IS 'Average price of what is filled, in the currency.';
COMMENT ON COLUMN order_events.event_ns IS 'Ns since the epoch, UTC.';
COMMENT ON COLUMN order_events.event_time IS 'The same as timestamp.';
COMMENT ON COLUMN order_events.error_code IS 'The broker''s code; 0: none.';
COMMENT ON COLUMN order_events.message IS 'The broker''s words.';

CREATE TABLE fills (
    run_id text NOT NULL REFERENCES runs,
    exec_id text NOT NULL,
    order_ref text NOT NULL,
    intent_id text NOT NULL,
    perm_id bigint NOT NULL,
    con_id bigint NOT NULL,
    symbol text NOT NULL,
    side text NOT NULL,
    quantity numeric NOT NULL,
    price numeric NOT NULL,
    event_ns bigint NOT NULL,
    event_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(event_ns)) STORED,
    PRIMARY KEY (run_id, exec_id)
);
CREATE INDEX fills_intent ON fills (intent_id);
COMMENT ON TABLE fills IS
    'Executions of our orders, each once per run. A run that reconciles after a restart records the executions that the broker still reports under its own run_id too.';
COMMENT ON COLUMN fills.run_id IS 'Run.';
COMMENT ON COLUMN fills.exec_id IS 'The broker''s id of the execution; a simulator may use it again in another run.';
COMMENT ON COLUMN fills.order_ref IS 'Our reference of the order.';
COMMENT ON COLUMN fills.intent_id IS 'Intent inside the reference; empty for an order that is not ours.';
COMMENT ON COLUMN fills.perm_id IS 'The broker''s permanent id of the order.';
COMMENT ON COLUMN fills.con_id IS 'Instrument.';
COMMENT ON COLUMN fills.symbol IS 'Ticker.';
COMMENT ON COLUMN fills.side IS 'BUY or SELL.';
COMMENT ON COLUMN fills.quantity IS 'Shares or units, > 0.';
COMMENT ON COLUMN fills.price IS 'Price, in the currency.';
COMMENT ON COLUMN fills.event_ns IS 'Execution time, ns since the epoch, UTC.';
COMMENT ON COLUMN fills.event_time IS 'The same as timestamp.';

CREATE TABLE commissions (
    run_id text NOT NULL REFERENCES runs,
    exec_id text NOT NULL,
    commission numeric NOT NULL,
    currency text NOT NULL,
    realized_pnl numeric,
    PRIMARY KEY (run_id, exec_id)
);
COMMENT ON TABLE commissions IS 'Costs of executions, each once per run.';
COMMENT ON COLUMN commissions.run_id IS 'Run.';
COMMENT ON COLUMN commissions.exec_id IS 'Execution.';
COMMENT ON COLUMN commissions.commission IS 'In currency; positive is a cost.';
COMMENT ON COLUMN commissions.currency IS 'ISO 4217.';
COMMENT ON COLUMN commissions.realized_pnl IS 'As the broker says, in currency; null when it did not.';

CREATE TABLE positions (
    position_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    con_id bigint NOT NULL,
    symbol text NOT NULL,
    quantity numeric NOT NULL,
    average_price double precision NOT NULL,
    event_ns bigint NOT NULL,
    event_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(event_ns)) STORED
);
CREATE INDEX positions_run ON positions (run_id, con_id, event_ns);
COMMENT ON TABLE positions IS 'What the account held after a change.';
COMMENT ON COLUMN positions.position_id IS 'Order of writing.';
COMMENT ON COLUMN positions.run_id IS 'Run.';
COMMENT ON COLUMN positions.con_id IS 'Instrument.';
COMMENT ON COLUMN positions.symbol IS 'Ticker.';
COMMENT ON COLUMN positions.quantity IS 'Shares or units; negative is short.';
COMMENT ON COLUMN positions.average_price IS 'Average cost, in the currency.';
COMMENT ON COLUMN positions.event_ns IS 'Ns since the epoch, UTC.';
COMMENT ON COLUMN positions.event_time IS 'The same as timestamp.';

CREATE TABLE risk_events (
    risk_event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    kind text NOT NULL,
    con_id bigint NOT NULL,
    event_ns bigint NOT NULL,
    event_time timestamptz NOT NULL GENERATED ALWAYS AS (utc_from_ns(event_ns)) STORED,
    detail text NOT NULL,
    "values" json NOT NULL
);
CREATE INDEX risk_events_run ON risk_events (run_id, event_ns);
COMMENT ON TABLE risk_events IS 'Halts, refusals, disconnects, kills: what a person should see.';
COMMENT ON COLUMN risk_events.risk_event_id IS 'Order of writing.';
COMMENT ON COLUMN risk_events.run_id IS 'Run.';
COMMENT ON COLUMN risk_events.kind IS 'What happened, in one word.';
COMMENT ON COLUMN risk_events.con_id IS 'Instrument; 0 for all.';
COMMENT ON COLUMN risk_events.event_ns IS 'Ns since the epoch, UTC.';
COMMENT ON COLUMN risk_events.event_time IS 'The same as timestamp.';
COMMENT ON COLUMN risk_events.detail IS 'One sentence.';
COMMENT ON COLUMN risk_events."values" IS 'Figures behind it.';

-- --- versions that are tried ----------------------------------------------------------------------

CREATE TABLE shadow_answers (
    decision_id text NOT NULL,
    service text NOT NULL,
    model_version bigint NOT NULL,
    run_id text NOT NULL REFERENCES runs,
    artifact_sha256 text NOT NULL,
    request_id text NOT NULL,
    outcome text NOT NULL,
    detail text NOT NULL,
    sent_after_ns bigint NOT NULL,
    deadline_after_ns bigint NOT NULL,
    received_after_ns bigint NOT NULL,
    output json NOT NULL,
    live_side text NOT NULL,
    side text,
    purpose text,
    strength double precision,
    quantity numeric,
    reason text,
    down_probability double precision,
    flat_probability double precision,
    up_probability double precision,
    risk_checks json NOT NULL,
    agrees boolean,
    probability_difference double precision,
    PRIMARY KEY (decision_id, service, model_version)
);
CREATE INDEX shadow_answers_run ON shadow_answers (run_id, service, model_version);
CREATE INDEX shadow_answers_version ON shadow_answers (service, model_version);
COMMENT ON TABLE shadow_answers IS
    'Answers of versions that are tried, asked after each decision, and the decision that would have been made with them; nothing acts on them. Also the ones that were not asked.';
COMMENT ON COLUMN shadow_answers.decision_id IS 'The real decision, made before the question was asked.';
COMMENT ON COLUMN shadow_answers.service IS 'Voter in whose place it answered.';
COMMENT ON COLUMN shadow_answers.model_version IS 'The version that is tried.';
COMMENT ON COLUMN shadow_answers.run_id IS 'Run.';
COMMENT ON COLUMN shadow_answers.artifact_sha256 IS 'Hex digest of its artifact.';
COMMENT ON COLUMN shadow_answers.request_id IS 'Id that was on the wire; empty: nothing was sent.';
COMMENT ON COLUMN shadow_answers.outcome IS 'in time (by a deadline of its own), or why there was no answer.';
COMMENT ON COLUMN shadow_answers.detail IS 'The server''s or the client''s words.';
COMMENT ON COLUMN shadow_answers.sent_after_ns IS 'Nanoseconds since the bar came off the socket; -1: not sent.';
COMMENT ON COLUMN shadow_answers.deadline_after_ns IS
    'Deadline, nanoseconds since the bar came off the socket; -1: not sent.';
COMMENT ON COLUMN shadow_answers.received_after_ns IS
    'Nanoseconds since the bar came off the socket; -1: nothing came.';
COMMENT ON COLUMN shadow_answers.output IS 'The raw answer: probabilities, embedding_f32 (base64), or {}.';
COMMENT ON COLUMN shadow_answers.live_side IS
    'BUY, SELL or HOLD: what ensemble, policy and risk made of the real answers.';
COMMENT ON COLUMN shadow_answers.side IS 'The same with this answer in the voter''s place; null: no answer.';
COMMENT ON COLUMN shadow_answers.purpose IS 'entry, exit, or null for HOLD; of the policy, before risk.';
COMMENT ON COLUMN shadow_answers.strength IS 'Of the policy, 0 to 1.';
COMMENT ON COLUMN shadow_answers.quantity IS 'Of the order that would have been sent; null: none.';
COMMENT ON COLUMN shadow_answers.reason IS 'Of the policy, in words.';
COMMENT ON COLUMN shadow_answers.down_probability IS 'Of the consensus with this answer; null below the quorum.';
COMMENT ON COLUMN shadow_answers.flat_probability IS 'Of the consensus with this answer; null below the quorum.';
COMMENT ON COLUMN shadow_answers.up_probability IS 'Of the consensus with this answer; null below the quorum.';
COMMENT ON COLUMN shadow_answers.risk_checks IS 'Each limit: name, value, limit, passed.';
COMMENT ON COLUMN shadow_answers.agrees IS
    'Whether side and purpose are those of the real decision; null: no answer.';
COMMENT ON COLUMN shadow_answers.probability_difference IS
    'Largest distance of a probability from the voter''s own answer; null where one of them is missing.';

-- --- readings of charts --------------------------------------------------------------------------

CREATE TABLE vision_charts (
    chart_sha256 text PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    png bytea NOT NULL,
    CONSTRAINT vision_charts_bounded CHECK (octet_length(png) <= 4194304)
);
CREATE INDEX vision_charts_run ON vision_charts (run_id);
COMMENT ON TABLE vision_charts IS 'Charts that the vision server was shown; the same picture is stored once.';
COMMENT ON COLUMN vision_charts.chart_sha256 IS 'Hex digest of the picture.';
COMMENT ON COLUMN vision_charts.run_id IS 'Run that drew it first.';
COMMENT ON COLUMN vision_charts.png IS 'The picture, PNG, at most 4 MiB.';

CREATE TABLE vision_readings (
    decision_id text PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    con_id bigint NOT NULL,
    as_of_ns bigint NOT NULL,
    request_id text NOT NULL,
    outcome text NOT NULL,
    detail text NOT NULL,
    sent_after_ns bigint NOT NULL,
    deadline_after_ns bigint NOT NULL,
    received_after_ns bigint NOT NULL,
    queue_ns bigint NOT NULL,
    compute_ns bigint NOT NULL,
    network_ns bigint NOT NULL,
    chart_sha256 text NOT NULL,
    question json NOT NULL,
    held_quantity numeric NOT NULL,
    model_name text NOT NULL,
    model_version bigint NOT NULL,
    artifact_sha256 text NOT NULL,
    export_commit text NOT NULL,
    prompt_name text NOT NULL,
    prompt_template_sha256 text NOT NULL,
    prompt text NOT NULL,
    raw_output text NOT NULL,
    sampling_json text NOT NULL,
    prompt_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    first_token_ns bigint NOT NULL,
    signal text,
    stated_confidence double precision,
    trust double precision,
    reasoning text,
    patterns text[] NOT NULL,
    key_levels double precision[] NOT NULL,
    risks text[] NOT NULL,
    contradictions json NOT NULL,
    expire_ns bigint,
    CONSTRAINT vision_readings_bounded CHECK (
        length(prompt) <= 32768 AND length(raw_output) <= 8192 AND length(sampling_json) <= 2048
    )
);
CREATE INDEX vision_readings_run ON vision_readings (run_id, as_of_ns);
CREATE INDEX vision_readings_chart ON vision_readings (chart_sha256);
COMMENT ON TABLE vision_readings IS
    'What the vision server read on the charts of decisions, asked once they were made; also the ones that were not asked or not answered.';
COMMENT ON COLUMN vision_readings.decision_id IS 'Decision whose chart it was; made before the question was asked.';
COMMENT ON COLUMN vision_readings.run_id IS 'Run.';
COMMENT ON COLUMN vision_readings.con_id IS 'Instrument.';
COMMENT ON COLUMN vision_readings.as_of_ns IS 'End of the last bar drawn, exchange time, ns since the epoch, UTC.';
COMMENT ON COLUMN vision_readings.request_id IS 'Id that was on the wire; empty: nothing was drawn.';
COMMENT ON COLUMN vision_readings.outcome IS 'in time (by a deadline of its own), or why there was no answer.';
COMMENT ON COLUMN vision_readings.detail IS 'The server''s or the client''s words.';
COMMENT ON COLUMN vision_readings.sent_after_ns IS 'Nanoseconds since the bar came off the socket; -1: not sent.';
COMMENT ON COLUMN vision_readings.deadline_after_ns IS
    'Deadline, nanoseconds since the bar came off the socket; -1: not sent.';
COMMENT ON COLUMN vision_readings.received_after_ns IS
    'Nanoseconds since the bar came off the socket; -1: nothing came.';
COMMENT ON COLUMN vision_readings.queue_ns IS 'Waiting in the server, nanoseconds, as the server says; -1: unknown.';
COMMENT ON COLUMN vision_readings.compute_ns IS 'Computing in the server, nanoseconds, as the server says; -1: unknown.';
COMMENT ON COLUMN vision_readings.network_ns IS 'Round trip without the server''s part, nanoseconds; -1: unknown.';
COMMENT ON COLUMN vision_readings.chart_sha256 IS 'Digest of the picture in vision_charts; empty: nothing was drawn.';
COMMENT ON COLUMN vision_readings.question IS
    'What was told beside the picture: symbol, prompt_name, extent, indicators, volume_ratio_forecast, past_outcomes [similarity, return in bps].';
COMMENT ON COLUMN vision_readings.held_quantity IS 'Signed position when the answer came.';
COMMENT ON COLUMN vision_readings.model_name IS 'Who answered; empty: nobody.';
COMMENT ON COLUMN vision_readings.model_version IS 'Its version.';
COMMENT ON COLUMN vision_readings.artifact_sha256 IS 'Hex digest of its artifact.';
COMMENT ON COLUMN vision_readings.export_commit IS 'Commit or revision that it was made from.';
COMMENT ON COLUMN vision_readings.prompt_name IS 'Prompt template that the server took.';
COMMENT ON COLUMN vision_readings.prompt_template_sha256 IS 'Hex digest of the template''s file.';
COMMENT ON COLUMN vision_readings.prompt IS 'What the model got, without the picture.';
COMMENT ON COLUMN vision_readings.raw_output IS 'What the model answered, before it was parsed.';
COMMENT ON COLUMN vision_readings.sampling_json IS 'How it was sampled, as the server says.';
COMMENT ON COLUMN vision_readings.prompt_tokens IS 'Tokens of the prompt, the picture''s included; -1: no answer.';
COMMENT ON COLUMN vision_readings.output_tokens IS 'Tokens of the answer; -1: no answer.';
COMMENT ON COLUMN vision_readings.first_token_ns IS
    'From the start of the work to the first token, nanoseconds; -1: unknown.';
COMMENT ON COLUMN vision_readings.signal IS 'BUY, SELL or HOLD; null: no answer.';
COMMENT ON COLUMN vision_readings.stated_confidence IS '0 to 1 as the model states it, not calibrated; null: no answer.';
COMMENT ON COLUMN vision_readings.trust IS
    'How far it agrees with the chart''s own data, 0 to 1; null: no answer.';
COMMENT ON COLUMN vision_readings.reasoning IS 'The model''s words; null: no answer.';
COMMENT ON COLUMN vision_readings.patterns IS 'Chart patterns that it names.';
COMMENT ON COLUMN vision_readings.key_levels IS 'Prices that it calls levels.';
COMMENT ON COLUMN vision_readings.risks IS 'What could go wrong, in its words.';
COMMENT ON COLUMN vision_readings.contradictions IS 'What the chart''s own data contradicts: field, detail.';
COMMENT ON COLUMN vision_readings.expire_ns IS
    'Not to be used at or after this instant, ns since the epoch, UTC; null: no answer.';

CREATE TABLE vision_effects (
    decision_id text PRIMARY KEY,
    run_id text NOT NULL REFERENCES runs,
    reading_decision_id text NOT NULL,
    effect text NOT NULL,
    wanted_side text NOT NULL,
    wanted_strength double precision NOT NULL,
    strength double precision NOT NULL,
    confidence double precision NOT NULL,
    calibrated boolean NOT NULL,
    trust double precision NOT NULL
);
CREATE INDEX vision_effects_run ON vision_effects (run_id);
CREATE INDEX vision_effects_reading ON vision_effects (reading_decision_id);
COMMENT ON TABLE vision_effects IS
    'What a living reading did to an entry that the policy wanted. The input itself is decisions.state.vision.';
COMMENT ON COLUMN vision_effects.decision_id IS 'Decision that it was done to.';
COMMENT ON COLUMN vision_effects.run_id IS 'Run.';
COMMENT ON COLUMN vision_effects.reading_decision_id IS 'Earlier decision whose chart was read: key of vision_readings.';
COMMENT ON COLUMN vision_effects.effect IS 'veto, shrink, or agrees (nothing was changed).';
COMMENT ON COLUMN vision_effects.wanted_side IS 'BUY or SELL: the entry that the policy wanted.';
COMMENT ON COLUMN vision_effects.wanted_strength IS 'Its strength, 0 to 1.';
COMMENT ON COLUMN vision_effects.strength IS 'What was left of it; 0 after a veto.';
COMMENT ON COLUMN vision_effects.confidence IS 'As stated, or the calibrated probability.';
COMMENT ON COLUMN vision_effects.calibrated IS 'Which of them.';
COMMENT ON COLUMN vision_effects.trust IS 'Of the reading.';

-- --- states of the similarity server --------------------------------------------------------------

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

-- --- views for people -----------------------------------------------------------------------------

CREATE VIEW v_decisions AS
SELECT d.run_id,
       d.event_time,
       i.symbol,
       d.side,
       d.purpose,
       round(d.strength::numeric, 3) AS strength,
       round(d.down_probability::numeric, 4) AS p_down,
       round(d.flat_probability::numeric, 4) AS p_flat,
       round(d.up_probability::numeric, 4) AS p_up,
       c.calls,
       c.in_time,
       d.missing,
       d.ledger,
       d.reason,
       d.decision_id
FROM decisions d
LEFT JOIN instruments i USING (run_id, con_id)
LEFT JOIN LATERAL (
    SELECT count(*) AS calls, count(*) FILTER (WHERE m.used) AS in_time
    FROM model_calls m WHERE m.decision_id = d.decision_id
) c ON true;
COMMENT ON VIEW v_decisions IS 'Decisions with symbol, probabilities and how many calls were used.';

CREATE VIEW v_orders AS
SELECT o.run_id,
       o.created_time,
       o.symbol,
       o.side,
       o.purpose,
       o.quantity,
       o.limit_price,
       o.stop_price,
       o.take_profit_price,
       e.status AS last_status,
       e.message AS last_message,
       f.filled,
       f.average_price,
       o.decision_id,
       o.intent_id
FROM order_intents o
LEFT JOIN LATERAL (
    SELECT x.status, x.message FROM order_events x
    WHERE x.intent_id = o.intent_id AND x.order_ref LIKE '%/E'
    ORDER BY x.event_ns DESC, x.order_event_id DESC LIMIT 1
) e ON true
LEFT JOIN LATERAL (
    SELECT coalesce(sum(y.quantity), 0) AS filled,
           round(sum(y.quantity * y.price) / nullif(sum(y.quantity), 0), 6) AS average_price
    FROM fills y WHERE y.run_id = o.run_id AND y.intent_id = o.intent_id AND y.order_ref LIKE '%/E'
) f ON true;
COMMENT ON VIEW v_orders IS 'Order intents with the last status and the fills of their parent order.';

CREATE VIEW v_fills_pnl AS
SELECT f.run_id,
       f.event_time,
       f.symbol,
       f.side,
       f.quantity,
       f.price,
       c.commission,
       c.realized_pnl,
       sum(CASE f.side WHEN 'BUY' THEN f.quantity ELSE -f.quantity END) OVER instrument AS position_after,
       sum(CASE f.side WHEN 'BUY' THEN -f.quantity ELSE f.quantity END * f.price
           - coalesce(c.commission, 0)) OVER instrument AS cash_flow_after,
       sum(c.realized_pnl) OVER instrument AS realized_pnl_after,
       f.order_ref,
       f.exec_id
FROM fills f
LEFT JOIN commissions c USING (run_id, exec_id)
WINDOW instrument AS (PARTITION BY f.run_id, f.con_id ORDER BY f.event_ns, f.exec_id);
COMMENT ON VIEW v_fills_pnl IS
    'Fills with commission, and running sums per run and instrument: position, cash after commissions, the broker''s realised PnL.';

CREATE VIEW v_service_latency AS
SELECT run_id,
       service,
       outcome,
       count(*) AS calls,
       round((percentile_cont(0.5) WITHIN GROUP (ORDER BY received_after_ns - sent_after_ns) / 1e6)::numeric, 3) AS p50_ms,
       round((percentile_cont(0.9) WITHIN GROUP (ORDER BY received_after_ns - sent_after_ns) / 1e6)::numeric, 3) AS p90_ms,
       round((percentile_cont(0.99) WITHIN GROUP (ORDER BY received_after_ns - sent_after_ns) / 1e6)::numeric, 3) AS p99_ms,
       round((percentile_cont(0.5) WITHIN GROUP (ORDER BY queue_ns) / 1e6)::numeric, 3) AS queue_p50_ms,
       round((percentile_cont(0.5) WITHIN GROUP (ORDER BY compute_ns) / 1e6)::numeric, 3) AS compute_p50_ms,
       round((percentile_cont(0.5) WITHIN GROUP (ORDER BY network_ns) / 1e6)::numeric, 3) AS network_p50_ms
FROM (
    SELECT m.run_id, m.service, m.outcome, m.queue_ns, m.compute_ns, m.network_ns,
           nullif(m.received_after_ns, -1) AS received_after_ns, nullif(m.sent_after_ns, -1) AS sent_after_ns
    FROM model_calls m
) calls
GROUP BY run_id, service, outcome;
COMMENT ON VIEW v_service_latency IS
    'Calls per run, service and outcome, with round trip and its parts in milliseconds.';

CREATE VIEW v_shadows AS
SELECT run_id,
       service,
       model_version,
       count(*) AS decisions,
       count(*) FILTER (WHERE sent_after_ns >= 0) AS asked,
       count(*) FILTER (WHERE agrees IS NOT NULL) AS answered,
       count(*) FILTER (WHERE agrees) AS agreed,
       max(probability_difference) AS max_probability_difference,
       round((percentile_cont(0.5) WITHIN GROUP (ORDER BY received_after_ns - sent_after_ns)
              FILTER (WHERE agrees IS NOT NULL) / 1e6)::numeric, 3) AS p50_ms,
       round((percentile_cont(0.99) WITHIN GROUP (ORDER BY received_after_ns - sent_after_ns)
              FILTER (WHERE agrees IS NOT NULL) / 1e6)::numeric, 3) AS p99_ms
FROM shadow_answers
GROUP BY run_id, service, model_version;
COMMENT ON VIEW v_shadows IS
    'Versions that are tried, per run: asked, answered, how many of their decisions agree with the real ones.';
