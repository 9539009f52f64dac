"""Whether all that is stored agrees: journals, records, rollups, summaries, credits, counters, in pairs."""
