"""Pure decision logic: ensemble, policy, risk, position. No I/O, no clock."""
