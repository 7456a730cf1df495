"""The task `facts`, for models that can chat: `questions` generates it, `numbers` tells whose numbers an answer has."""
