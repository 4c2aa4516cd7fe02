"""Drawn faces: `plan` (people and pairs), `traits` (what faces look like), `faces` (draw a photo), `tree` (write all)."""
