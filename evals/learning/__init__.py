"""What each objective teaches the demo-size model at equal compute: five tasks, every preset, several seeds."""
