"""`led-sglang doctor`: is what LED needs in order? A module per thing that it looks at."""
