"""MongoDB: one small store per collection, each a handful of plain verbs over documents."""
