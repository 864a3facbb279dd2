"""Layer 1: pictures and what lies in them: boxes, masks, and how they move together."""
