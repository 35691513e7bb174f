"""Scoring findings against a reference, lesion by lesion, with the rule declared."""
