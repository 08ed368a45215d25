//! Keys in one Redis, moved together with the position by one script.
