"""From a directory to a model that answers: opening, fitting, device maps, the handle for backends."""
