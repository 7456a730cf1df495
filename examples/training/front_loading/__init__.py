"""Where reasoning data belongs: in pretraining, in fine-tuning, or in both. See `docs/training_front_loading.md`."""
