"""What is emulated: the machine's description, where descriptions come from, and how a machine boots."""
