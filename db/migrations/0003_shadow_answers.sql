-- What versions that are tried answered beside the real ones, and what would have been decided with it.

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
