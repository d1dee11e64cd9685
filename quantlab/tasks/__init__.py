"""Tasks: the data, its normalisation and labels, and how a result on them is judged."""
