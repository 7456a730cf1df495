"""Which layout answers most questions per second: predicted from published figures of devices and links."""
