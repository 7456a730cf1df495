"""A replica of an agent: one actor, or one actor per tensor-parallel rank."""
