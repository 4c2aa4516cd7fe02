"""Drawn faces: `plan` (people and pairs), `traits` (what faces look like), `faces` (one photo), `tree` (the data set)."""
