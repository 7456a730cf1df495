"""A replica of an agent: one actor, or one for each tensor-parallel rank."""
