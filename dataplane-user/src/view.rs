//! What the live maps say, for people and programs.
