"""How far a turn is, how long its phases take, and what of a transfer no computation hid."""
