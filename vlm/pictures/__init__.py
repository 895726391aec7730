"""Pictures on their way to the model: decoded, sized, processed; told apart, and drawn on."""
