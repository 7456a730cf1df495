"""The task: puzzles about a machine, the teacher that writes hints about them, and the prompts of the two agents."""
