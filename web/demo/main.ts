/** The page: puts its parts together and switches between signed out and signed in. */

import { createDreamsApi } from "../src/index.js";
import { Composer } from "./composer.js";
import { byId, showText } from "./dom.js";
import { Journal } from "./journal.js";
import { Session } from "./session.js";
import { SignIn } from "./sign-in.js";
import { texts, translatePage } from "./texts.js";

translatePage();

const signInView = byId("sign-in-view", HTMLElement);
const appView = byId("app-view", HTMLElement);
const who = byId("who", HTMLElement);
const signOut = byId("sign-out", HTMLButtonElement);

const session = new Session(() => showSignIn(texts.sessionExpired));
const api = createDreamsApi({ token: session.token });
const journal = new Journal(api, session.token);
const signIn = new SignIn(session, showApp);
const composer = new Composer(api, (dream, expected) => journal.add(dream, expected));

signOut.addEventListener("click", () => {
  session.signOut();
  showSignIn(null);
});

if (session.isSignedIn) showApp();
else showSignIn(null);

function showSignIn(problem: string | null): void {
  composer.cancel();
  journal.clear();
  appView.hidden = true;
  signInView.hidden = false;
  showText(who, null);
  signOut.hidden = true;
  void signIn.prepare(problem);
}

function showApp(): void {
  signInView.hidden = true;
  appView.hidden = false;
  showText(who, session.name);
  who.title = texts.signedInAs(session.name);
  signOut.hidden = false;
  composer.open(session.owner);
  void journal.load();
}
