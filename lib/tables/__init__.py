"""Results of evaluations: grouped over seeds, as tables and as plots."""
