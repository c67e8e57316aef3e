"""What holds SECIR to its promises."""
