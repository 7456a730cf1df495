"""The served models, and the questions that are asked of them one by one."""
