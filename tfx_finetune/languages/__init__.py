"""One model for several languages, or sources: which head is asked, what is added, what is merged."""
