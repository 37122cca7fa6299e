"""Features and labels of videos → a head."""
