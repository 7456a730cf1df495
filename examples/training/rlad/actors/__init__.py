"""What is computed in Ray actors: the learner of a policy, the workers that draw texts, and the players of both."""
