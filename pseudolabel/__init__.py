"""What Colabator adds: the scorer, trust maps, and the shared pool of the best label of every photograph."""
