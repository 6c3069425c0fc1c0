/** The sign-in form: a development user, or a pasted token where the server gives out none. */

import { ApiError } from "../src/index.js";
import { byId, showText } from "./dom.js";
import { problemText } from "./problem-text.js";
import { hasDevTokens, type Session } from "./session.js";
import { texts } from "./texts.js";

/** The form. `onSignedIn` fires once the session stands. */
export class SignIn {
  private readonly devFields = byId("dev-fields", HTMLElement);
  private readonly tokenFields = byId("token-fields", HTMLElement);
  private readonly userId = byId("user-id", HTMLInputElement);
  private readonly username = byId("username", HTMLInputElement);
  private readonly token = byId("token", HTMLTextAreaElement);
  private readonly submitButton = byId("sign-in", HTMLButtonElement);
  private readonly error = byId("sign-in-error", HTMLElement);

  constructor(
    private readonly session: Session,
    private readonly onSignedIn: () => void,
  ) {
    byId("sign-in-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.submit();
    });
  }

  /** Asks the server which way of signing in it offers, and shows that. */
  async prepare(problem: string | null = null): Promise<void> {
    showText(this.error, problem);
    if (!(await hasDevTokens())) this.offerToken();
  }

  private get isDev(): boolean {
    return !this.devFields.hidden;
  }

  private offerToken(): void {
    this.devFields.hidden = true;
    this.tokenFields.hidden = false;
  }

  private async submit(): Promise<void> {
    const userId = this.userId.value.trim();
    const token = this.token.value.trim();
    if (this.isDev ? userId === "" : token === "") {
      showText(this.error, this.isDev ? texts.userIdMissing : texts.tokenMissing);
      (this.isDev ? this.userId : this.token).focus();
      return;
    }
    showText(this.error, null);
    this.submitButton.disabled = true;
    try {
      if (this.isDev) await this.session.signInAs(userId, this.username.value.trim());
      else await this.session.signInWith(token);
      this.token.value = "";
      this.onSignedIn();
    } catch (error) {
      this.fail(error);
    } finally {
      this.submitButton.disabled = false;
    }
  }

  private fail(error: unknown): void {
    if (this.isDev && error instanceof ApiError && error.status === 404) {
      this.offerToken();
      this.token.focus();
      return;
    }
    const isRefused = error instanceof ApiError && (error.status === 401 || error.status === 403);
    showText(this.error, isRefused && !this.isDev ? texts.tokenRefused : problemText(error));
  }
}
