"""The broker at work: its event loop, the QPUs it drives, what it stores."""
