//! What plans and statuses come of pods in all their states.
