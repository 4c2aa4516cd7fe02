"""Drawn faces: `plan` (people and pairs), `traits` (looks of a person), `faces` (one photo), `tree` (the data set)."""
