"""What an endpoint answers: the same as `latentmas ask` under load, and nothing wrong while parts of it die."""
