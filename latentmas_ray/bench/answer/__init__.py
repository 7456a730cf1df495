"""`latentmas bench answer`: engines that write texts, and the methods on the same questions."""
