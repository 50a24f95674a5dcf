-- What the vision server read on the charts of decisions, and what that did to later entries.

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
