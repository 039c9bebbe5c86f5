"""Objects across tiles: from the classes of pixels to ids, a table and outlines."""
