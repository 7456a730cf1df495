"""What is known of the agents' models before anything starts.

run_models  which agent has which model, where each is, and whose memory it reads
positions   whether the latent steps of the agents fit their models
"""
