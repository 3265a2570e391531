"""``hpcqc realtime``: real-time calls over UDP."""
