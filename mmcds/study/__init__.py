"""What does the contrast add? Points, arms, rule of choice and comparison; docs/study.md is the protocol."""
