"""Statistics: hourly sums of records, summaries of them, and what any period adds up to."""
