export const release = "RELEASE";
