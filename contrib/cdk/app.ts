// `npx aws-cdk deploy`: the setting, in the account and region of the caller's credentials.
import { App } from 'aws-cdk-lib';
import { SettingStack } from './setting.ts';

new SettingStack(new App(), 'EfsAgentSetting', {
  env: { account: process.env['CDK_DEFAULT_ACCOUNT'], region: process.env['CDK_DEFAULT_REGION'] },
});
