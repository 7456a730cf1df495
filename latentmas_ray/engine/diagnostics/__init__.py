"""What is measured of an agent's thoughts: logit lens, alarms, guard, ablation, traces."""
