"""Comments against a policy: a decision and the rule it rests on."""
