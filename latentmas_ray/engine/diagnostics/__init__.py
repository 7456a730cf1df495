"""Measurements of agents' thoughts: logit lens, alarms, guard, ablation, traces."""
