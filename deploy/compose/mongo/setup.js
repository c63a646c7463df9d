// Makes the one-member replica set and the gateway's user. Run by mongosh at every start; it may be repeated.
const secret = (name) => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
};
const options = "directConnection=true&serverSelectionTimeoutMS=120000";
const root = connect(
  `mongodb://root:${encodeURIComponent(secret("MONGO_ROOT_PASSWORD"))}@mongo:27017/admin?${options}`,
);

try {
  root.adminCommand({ replSetGetStatus: 1 });
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  root.adminCommand({
    replSetInitiate: { _id: "stdweb", members: [{ _id: 0, host: "mongo:27017" }] },
  });
}
const end = Date.now() + 60_000;
while (!root.adminCommand({ hello: 1 }).isWritablePrimary) {
  if (Date.now() > end) throw new Error("the replica set has no primary");
  sleep(200);
}

const stdweb = root.getSiblingDB("stdweb");
const user = {
  pwd: secret("MONGO_GATEWAY_PASSWORD"),
  roles: [{ role: "readWrite", db: "stdweb" }],
};
if (stdweb.getUser("gateway")) {
  stdweb.updateUser("gateway", user);
} else {
  stdweb.createUser({ user: "gateway", ...user });
}
print("replica set and user are there");
