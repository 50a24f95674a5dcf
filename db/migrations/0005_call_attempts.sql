-- Where a call was sent, where several servers stand in for each other.

ALTER TABLE model_calls ADD COLUMN attempts json;
COMMENT ON COLUMN model_calls.attempts IS
    'Where it was sent, in order: target, cause (first, retry, hedge), outcome, sent_after_ns, …; null: one server only.';
