"""What works on the project itself: installing its parts, writing its generated documents."""
